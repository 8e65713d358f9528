"""`diminuendo serve`: a whole server on one machine, as separate processes under one supervisor."""
