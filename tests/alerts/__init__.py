"""The alert rules and the dashboard that are shipped: do they ask for what there is, and does each alert fire?"""
