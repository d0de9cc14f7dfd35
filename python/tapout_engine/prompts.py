"""What the demo asks. No drafter is trained on it."""

DEMO_PROMPTS = {
    "code": (
        "Rename the variable `total` to `subtotal` in this function and show the whole function:\n"
        "def invoice(items, tax):\n"
        "    total = 0\n"
        "    for item in items:\n"
        "        total = total + item.price * item.count\n"
        "    return total + total * tax\n"
    ),
    "prose": "Write the first paragraph of a story about a lighthouse keeper in winter.",
    "question": "Why is the sky blue during the day and red at sunset?",
}
