"""The relatives of the reaction model, part II of the book: one short file a topic, unused by the core."""
