"""Texts of pushes for each device: templates in Liquid, texts by locale, and saved templates."""
