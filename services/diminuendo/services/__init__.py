"""The processes of a Diminuendo cluster."""
