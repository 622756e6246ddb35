"""How a device gets a TFLite runtime."""
