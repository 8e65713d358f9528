"""The wire's side: parse, call the domain, translate, reply."""
