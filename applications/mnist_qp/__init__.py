"""Handwritten digits through a quadratic program: two linear maps, a QP layer, softmax."""
