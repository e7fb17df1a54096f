"""Network parts that know nothing about poses."""
