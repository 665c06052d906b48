"""A chat with Streamlit: word by word, with a history for each visitor; the model stops when the visitor does.

    pip install openai-compat streamlit
    streamlit run docs/examples/streamlit_chat.py

The environment names the server (``OPENAI_BASE_URL``, ``OPENAI_API_KEY``, ``OPENAI_MODEL``); else one on this machine
answers.
"""

import streamlit as st

from openai_compat import Client, OpenAICompatError


@st.cache_resource
def client() -> Client:
    return Client.from_env(local=True)


st.title("Chat")
history = st.session_state.setdefault("history", [])
for message in history:
    st.chat_message(message["role"]).markdown(message["content"])

if question := st.chat_input("Your message"):
    st.chat_message("user").markdown(question)
    asked = {"role": "user", "content": question}
    stream = client().stream([*history, asked], max_tokens=1000)
    with st.chat_message("assistant"):
        try:
            st.write_stream(stream.text_stream)
        except OpenAICompatError as error:
            st.error(str(error))
        finally:
            # Also where the visitor stopped it: Streamlit then ends the script by an exception.
            if text := stream.response.text:
                history += [asked, {"role": "assistant", "content": text}]
