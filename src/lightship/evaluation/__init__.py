"""Quality, performance, statistics, frontier and report; talks to endpoints over HTTP only."""
