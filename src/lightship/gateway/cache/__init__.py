"""The exact response cache: answers given again to the same request of the same tenant."""
