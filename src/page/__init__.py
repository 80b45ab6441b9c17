"""Findings → one page of HTML that needs no other file, and its pictures."""

from src.page.blocks import Page, Picture, render
from src.page.sections import Winner, make_page

__all__ = ["Page", "Picture", "Winner", "make_page", "render"]
