"""The stampede: one expiring key, a slow origin, a thousand readers, ways to protect it. Run: python -m demo"""
