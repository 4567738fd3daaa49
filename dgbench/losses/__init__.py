"""The terms of losses, and what is computed for them, apart from the methods that weigh them."""
