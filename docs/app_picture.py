"""The README's picture of the app, nbs/images/app.png, anew: python docs/app_picture.py

Needs chromium in the path. Run it again when the page, its words or the weights change.
"""

import io
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from fer_nb.data.synthetic import draw_group

ROOT, PORT = Path(__file__).resolve().parent.parent, 8597


def main() -> None:
    draw_group(["happy", "neutral", "surprise"], seed=39, size=240).save(file := io.BytesIO(), "PNG")
    photo = {"name": "group.png", "mimeType": "image/png", "buffer": file.getvalue()}
    words = "-m", "streamlit", "run", "app.py", "--server.headless=true", f"--server.port={PORT}"
    with subprocess.Popen([sys.executable, *words], cwd=ROOT, stdout=subprocess.DEVNULL) as server:
        try:
            with sync_playwright() as play:
                browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                page = browser.new_page(viewport={"width": 1180, "height": 1190}, locale="en-US")
                page.wait_for_timeout(5000)  # until the server answers
                page.goto(f"http://localhost:{PORT}")
                page.locator('input[type="file"]').first.set_input_files(photo, timeout=60_000)
                page.get_by_text("Enlarge").wait_for(timeout=60_000)
                page.wait_for_timeout(5000)  # cards and fonts
                cut = {"x": 0, "y": 0, "width": 1180, "height": 985}  # above what is fixed to the window's lower edge
                page.screenshot(path=ROOT / "nbs" / "images" / "app.png", clip=cut)
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
