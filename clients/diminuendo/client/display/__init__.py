"""What a person sees of a job: a live view on a terminal, plain lines elsewhere, and the tables of a result."""
