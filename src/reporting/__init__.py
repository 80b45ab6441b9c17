"""Publish a search: its tables, JSON files and pictures, and the report on a results folder."""
