"""The tables and the pictures of the README, from results.csv and curves.csv."""
