"""
One
===

x
"""
print(1)
