"""What makes a runtime's own file on the device from the network that was shipped: one file a way of building."""
