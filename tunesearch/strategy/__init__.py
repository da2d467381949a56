"""What to try, what to continue and what to end: decisions over what is known, without Ray and without a database."""
