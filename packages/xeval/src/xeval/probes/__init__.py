"""Linear probes in closed form: the states of a model that stays as it is, and the ridge regression that reads labels from them."""
