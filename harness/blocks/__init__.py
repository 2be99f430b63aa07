"""The blocks of a model: found, called, replayed, offloaded."""
