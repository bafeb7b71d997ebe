"""Crawlers: artists named by a person -> raw songs. The network lives in fetch.py only."""
