"""Input that means harm, and clients that mean it: nobody else may notice."""
