"""The relatives of the reaction model: part II of the book, one short file a topic, used by nothing in the core."""
