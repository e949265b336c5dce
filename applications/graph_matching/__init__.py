"""Graph matching: landmarks of two pictures are matched by the leading eigenvector of an affinity that is learned."""
