"""Rules about people: targets, consent, channels, caps, quiet hours."""
