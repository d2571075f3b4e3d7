"""What of the API the gateway itself makes: `/v1/responses` for engines that lack it, and its own description."""
