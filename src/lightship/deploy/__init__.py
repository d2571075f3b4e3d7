"""What is to run where, in the formats of platforms: pure, from `ports.deployment` and the spec to documents."""
