"""Shipped tuning records, one folder per device."""
