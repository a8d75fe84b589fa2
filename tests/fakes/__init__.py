"""Small real things that plug into the product's seams: a clock that jumps, a host with knobs."""
