"""HCR-Lightning: Hyperband tunes a small network that reads handwritten characters."""

from src.core import affinity as affinity  # before anything imports PyTorch
from src.core import ranks as ranks  # before anything imports Lightning
