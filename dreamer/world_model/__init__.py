"""World model: encoder, decoder, heads, and the module that joins them to a dynamics core."""
