"""The audit log: who changed what, when, from where; and the evidence of what became of a device's pushes."""
