"""The live page: `app` puts it together; each other module is one box of it."""
