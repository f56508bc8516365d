"""The pages, as they read. Start them with `make app`, `fer-nb app`, or any ASGI server: `uvicorn app:app`."""

import streamlit as st

from fer_nb import app_ui as ui


def faces():
    ui.title("What does this face show?", "A photo in, an expression for every face out. Nothing is kept.")
    source = ui.choose_source()
    if source == ui.FILM:
        return ui.film(model)

    photos = ui.live(model) if source == ui.LIVE else ui.photos(source)
    if not photos:
        return None if source == ui.LIVE else ui.welcome()

    answers = ui.look_at_all(photos, model)
    for answer in answers:
        ui.show(answer, model, named=len(answers) > 1)
    ui.downloads(answers)


def how_good():
    ui.title("How good is it?", "Right more often than guessing, wrong more often than you think.")
    ui.how_good(model)


if __name__ == "__main__":  # Streamlit runs this file for every visitor
    st.set_page_config(page_title="fer_nb", page_icon=ui.icon(), layout="wide")
    ui.style()
    pages = [
        st.Page(faces, title="Faces", icon=":material/face:", default=True),
        st.Page(how_good, title="How good is it?", icon=":material/query_stats:", url_path="how-good"),
    ]
    page = st.navigation(pages, position="top")
    with st.sidebar:
        model = ui.choose_model()
        ui.promises()
    page.run()
else:  # the server imports it once
    app = st.App(__file__, routes=ui.roads(), lifespan=ui.at_home)
