"""When requests come, how long they are and whose they are: streams that the seed decides."""
