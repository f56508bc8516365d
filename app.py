"""The pages, as they read. Start them with `make app`, `fer-nb app`, or any ASGI server: `uvicorn app:app`."""

import streamlit as st

from fer_nb.app import frame, server
from fer_nb.app.pages import faces_page
from fer_nb.app.quality import quality_page

if __name__ == "__main__":  # Streamlit runs this file for every visitor
    st.set_page_config(page_icon=frame.page_icon(), layout="wide")
    frame.inject_css()
    pages = [
        st.Page(faces_page, title=frame.tr("Faces"), icon=":material/face:", default=True),
        st.Page(quality_page, title=frame.tr("How good is it?"), icon=":material/query_stats:", url_path="how-good"),
    ]
    page = st.navigation(pages, position="hidden")
    st.set_page_config(page_title=f"{page.title} · fer_nb")
    with st.container(horizontal=True, key="navigation"):  # in the page, where a phone shows it, too
        for each in pages:
            st.page_link(each)
    page.run()
    frame.notices()
    frame.announce_language()
else:  # the server imports it once
    app = st.App(__file__, routes=server.routes(), middleware=server.middleware(), lifespan=server.lifespan)
