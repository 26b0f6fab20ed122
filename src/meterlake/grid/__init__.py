"""What readings and topology say together: voltage, load and outages of the grid."""
