"""Build the report: one HTML page that needs no other file, and its pictures."""

from src.reporting.page.blocks import Page, Picture, render
from src.reporting.page.model_sections import Winner
from src.reporting.page.sections import PICTURES, make_page

__all__ = ["PICTURES", "Page", "Picture", "Winner", "make_page", "render"]
