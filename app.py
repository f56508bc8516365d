"""The page: a photo in, the expression of every face out. Start it with `make app` or `fer-nb app`."""

import streamlit as st

from fer_nb import app_ui as ui
from fer_nb.core import FerError

st.set_page_config(page_title="fer_nb", page_icon=ui.icon(), layout="wide")

with st.sidebar:
    model = ui.choose_model()
    ui.promises()

ui.title()
photo = ui.choose_photo()
if photo is None:
    ui.welcome()
    st.stop()

try:
    result = ui.recognise(photo, model)
except FerError as problem:
    ui.sorry(problem)
    st.stop()

left, right = ui.two_places(result)
with left:
    ui.show_photo(result, model)
with right:
    ui.show_faces(result)
