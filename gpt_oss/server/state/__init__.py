"""What a server remembers: responses and conversations in a database, reasoning in memory and in sealed items."""
