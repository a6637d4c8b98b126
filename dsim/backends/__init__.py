"""What answers the forwards that the algorithms ask for."""
