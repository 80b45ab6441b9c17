"""Use a trained model: class probabilities, pictures from files and a canvas, exported files."""
