"""Findings → one page of HTML that needs no other file, and its pictures."""

from src.page.blocks import Page, Picture, render
from src.page.models import Winner
from src.page.sections import PICTURES, make_page

__all__ = ["PICTURES", "Page", "Picture", "Winner", "make_page", "render"]
