"""What a token costs: prices, cost per token on two bases, break-even. Pure, but for reading the price list."""
