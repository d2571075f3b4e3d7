"""`lightship deploy`: makes a deployment of a spec and what is known of its variants, renders it, and writes it."""
