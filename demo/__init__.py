"""The stampede: one expiring key, a slow origin, a thousand readers, four ways to protect it. Run: python -m demo"""
