"""Who may send requests and how many: keys, limits, budgets, and fairness between tenants."""
