"""What a night costs: our stages beside the plain SDK loop, against one server. See README.md."""
