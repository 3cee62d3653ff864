"""Makes models out of files that strangers wrote, converted or with smaller weights, in a process of its own."""
