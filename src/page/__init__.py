"""Findings → one page of HTML that needs no other file, and its pictures."""

from src.page.blocks import Page, Picture, render
from src.page.models import Winner
from src.page.sections import make_page

__all__ = ["Page", "Picture", "Winner", "make_page", "render"]
