"""Tables, the writer, versions."""
