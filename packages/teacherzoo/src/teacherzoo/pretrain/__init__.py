"""Teachers of our own: tiny ones trained from nothing, and masked LMs that go on from an encoder that is there."""
